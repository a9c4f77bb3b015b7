"""Break, find and mend what goes wrong with RoPE on the way into and out of Hugging Face directories."""
