"""Speech to text: decoding, voice activity, windows, and the models that read them."""
