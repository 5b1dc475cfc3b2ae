"""Several images, and questions about them in later turns."""

from ostro import ChatCompletionRequest, Runner

runner = Runner()
picture = {"type": "image_url", "image_url": {"url": "picture.png"}}
messages = [{"role": "user", "content": [picture, {"type": "text", "text": "What is this?"}]}]
for question in (
    "How many shapes are there?",
    [picture, {"type": "text", "text": "Which image has more shapes?"}],
):
    response = runner.send_chat_completion_request(ChatCompletionRequest(messages=messages))
    answer = response.choices[0].message.content
    print(answer)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": question}]
response = runner.send_chat_completion_request(ChatCompletionRequest(messages=messages))
print(response.choices[0].message.content)
print(response.usage.prompt_tokens, "tokens read, those of the images included")
