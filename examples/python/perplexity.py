"""Perplexity of a text, with activations as the engine computes them and unquantized."""

import ostro

TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom."

for compute in ("auto", "f32"):
    model = ostro.load_model("model.gguf", compute=compute)
    print(f"{compute:<5} {model.perplexity(TEXT):.4f}")
