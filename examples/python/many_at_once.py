"""Several requests at once with asyncio: they share the engine's steps."""

import asyncio

from ostro import AsyncRunner, CompletionRequest


async def main() -> None:
    async with await AsyncRunner.load("model.gguf") as runner:
        prompts = [f"{n} times {n} is" for n in range(2, 10)]
        answers = await asyncio.gather(
            *(
                runner.send_completion_request(
                    CompletionRequest(prompt=prompt, max_tokens=8, temperature=0.0)
                )
                for prompt in prompts
            )
        )
        for prompt, answer in zip(prompts, answers, strict=True):
            print(prompt + answer.choices[0].text.split("\n")[0])


asyncio.run(main())
