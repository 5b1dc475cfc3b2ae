"""Stream a chat answer of a local GGUF file."""

from ostro import ChatCompletionRequest, Runner, Which

runner = Runner(which=Which.GGUF("folder", "model.gguf"))
stream = runner.send_chat_completion_request(
    ChatCompletionRequest(
        messages=[{"role": "user", "content": "Tell me a very short story."}],
        max_tokens=48,
        seed=1,
        stream=True,
    )
)
for chunk in stream:
    print(chunk.choices[0].delta.content, end="", flush=True)
print()
