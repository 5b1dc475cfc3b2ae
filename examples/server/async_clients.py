"""Eight clients at once; each gets what it would get alone."""

import asyncio

from openai import AsyncOpenAI

client = AsyncOpenAI(api_key="foobar", base_url="http://localhost:1234/v1/")


async def complete(prompt: str) -> str:
    completion = await client.completions.create(model="default", prompt=prompt, max_tokens=8, temperature=0)
    return prompt + completion.choices[0].text.split("\n")[0]


async def main() -> None:
    for line in await asyncio.gather(*(complete(f"{n} plus {n} is") for n in range(1, 9))):
        print(line)


asyncio.run(main())
