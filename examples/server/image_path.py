"""An image by its path, which a server on the same machine reads itself. Start one first: ostro serve"""

from pathlib import Path

from openai import OpenAI

client = OpenAI(api_key="foobar", base_url="http://localhost:1234/v1/")
completion = client.chat.completions.create(
    model="default",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": str(Path("picture.png").absolute())}},
                {"type": "text", "text": "What is this?"},
            ],
        }
    ],
)
print(completion.choices[0].message.content)
