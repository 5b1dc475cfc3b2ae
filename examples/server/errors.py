"""What a client sees when a request cannot be served."""

from openai import BadRequestError, NotFoundError, OpenAI

client = OpenAI(api_key="foobar", base_url="http://localhost:1234/v1/")

try:
    client.completions.create(model="default", prompt="x", temperature=9)
except BadRequestError as error:
    print(error.status_code, error.param, error.body)
try:
    client.completions.create(model="gpt-4", prompt="x")
except NotFoundError as error:
    print(error.status_code, error.code, error.body)
