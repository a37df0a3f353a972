"""What every part agrees on: the custom resources, their names and labels, root causes and the OpenAI wire format."""
