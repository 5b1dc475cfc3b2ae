"""One question to a model of the hub, as on mistral.rs's Gemma 3 page (text for now)."""

from ostro import ChatCompletionRequest, Runner, VisionArchitecture, Which

runner = Runner(
    which=Which.VisionPlain(
        model_id="google/gemma-3-12b-it",
        arch=VisionArchitecture.Gemma3,
    ),
)

res = runner.send_chat_completion_request(
    ChatCompletionRequest(
        model="gemma3",
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is Mount Washington known for?"}],
            }
        ],
        max_tokens=64,
        presence_penalty=1.0,
        top_p=0.1,
        temperature=0.1,
    )
)
print(res.choices[0].message.content)
print(res.usage)
