"""One image in every form that a message takes: path, base64, bytes, Pillow, numpy."""

import base64
from pathlib import Path

import numpy as np
from PIL import Image

from ostro import ChatCompletionRequest, Runner

data = Path("picture.png").read_bytes()
image = Image.open("picture.png").convert("RGB")
parts = {
    "path": {"type": "image_url", "image_url": {"url": "picture.png"}},
    "base64": {"type": "image_url", "image_url": {"url": base64.b64encode(data).decode()}},
    "data URL": {
        "type": "image_url",
        "image_url": {"url": "data:image/png;base64," + base64.b64encode(data).decode()},
    },
    "bytes": {"type": "image", "image": data},
    "Pillow": {"type": "image", "image": image},
    "numpy": {"type": "image", "image": np.asarray(image)},
}

with Runner() as runner:
    for form, part in parts.items():
        content = [part, {"type": "text", "text": "What is this?"}]
        response = runner.send_chat_completion_request(
            ChatCompletionRequest(messages=[{"role": "user", "content": content}])
        )
        print(f"{form}: {response.choices[0].message.content}")
