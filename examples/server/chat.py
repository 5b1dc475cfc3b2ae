"""The Gemma 3 page's HTTP example (text for now). Start a server first: ostro serve google/gemma-3-12b-it"""

from openai import OpenAI

client = OpenAI(api_key="foobar", base_url="http://localhost:1234/v1/")

completion = client.chat.completions.create(
    model="gemma3",
    messages=[
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is Mount Washington known for?"}],
        },
    ],
    max_tokens=64,
    frequency_penalty=1.0,
    top_p=0.1,
    temperature=0,
)
resp = completion.choices[0].message.content
print(resp)
