"""The NVIDIA backend of zif."""
