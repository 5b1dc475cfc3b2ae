"""A conversation: the messages so far go with every request."""

from ostro import ChatCompletionRequest, Runner

runner = Runner("model.gguf")
messages = [{"role": "system", "content": "You are a helpful guide."}]
for question in ("Where is Mount Washington?", "How high is it?"):
    messages.append({"role": "user", "content": question})
    response = runner.send_chat_completion_request(
        ChatCompletionRequest(messages=messages, max_tokens=32, temperature=0.0)
    )
    answer = response.choices[0].message.content
    messages.append({"role": "assistant", "content": answer})
    print(f"> {question}\n{answer}")
