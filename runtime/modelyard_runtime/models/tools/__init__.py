"""How models write calls of tools, family by family: parsers of what they say, grammars of what they must say."""
