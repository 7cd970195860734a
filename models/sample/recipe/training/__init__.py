"""Training: tokenizer, model, optimiser, stages, and the checkpoint in Hugging Face's layout. Needs torch."""
