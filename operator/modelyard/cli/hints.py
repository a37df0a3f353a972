"""How to call what was started."""

_EXAMPLE = "Write a haiku about rivers."


def how_to_call(url: str, model: str | None) -> str:
    """Returns the ways to talk to a chat model; the way to see what there is when none can chat."""
    if model is None:
        return f"Call it:\n  curl {url}/models"
    return f"""Call it with curl:
  curl {url}/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{_EXAMPLE}"}}]}}'
with the openai package:
  from openai import OpenAI
  client = OpenAI(base_url="{url}", api_key="none")
  answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "{_EXAMPLE}"}}])
  print(answer.choices[0].message.content)
or talk to it, in another terminal:
  modelyard chat {model}"""
