"""Photos to latents, prompts to tokens, training and sampling; knows no method and no store."""
