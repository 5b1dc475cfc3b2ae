"""A local image, sent along as base64: for servers on other machines. Start one first: ostro serve"""

import base64
from pathlib import Path

from openai import OpenAI

client = OpenAI(api_key="foobar", base_url="http://localhost:1234/v1/")
encoded = base64.b64encode(Path("picture.png").read_bytes()).decode()
completion = client.chat.completions.create(
    model="default",
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
                {"type": "text", "text": "What is this?"},
            ],
        }
    ],
)
print(completion.choices[0].message.content)
