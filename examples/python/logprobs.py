"""How sure the model was of each token."""

import math

from ostro import ChatCompletionRequest, Runner

runner = Runner("model.gguf")
response = runner.send_chat_completion_request(
    ChatCompletionRequest(
        messages=[{"role": "user", "content": "Is water wet?"}],
        max_tokens=12,
        temperature=0.0,
        logprobs=True,
        top_logprobs=3,
    )
)
for token in response.choices[0].logprobs.content:
    others = ", ".join(f"{top.token!r} {math.exp(top.logprob):.0%}" for top in token.top_logprobs)
    print(f"{token.token!r:>14} {math.exp(token.logprob):>5.0%}   {others}")
