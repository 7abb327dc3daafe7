"""Instructions that several benchmarks put behind a question; wording is part of a number, so it stands once."""

# LLaVA-1.5's instruction for short answers, taken over by lmms-eval for POPE, MME, GQA and VQAv2.
SHORT_ANSWER = "\nAnswer the question using a single word or phrase."
