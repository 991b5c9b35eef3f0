"""Text to token ids and back, for whatever a checkpoint's ``tokenizer.json`` describes."""

from zif.tokenizer.chat_template import ChatTemplate
from zif.tokenizer.detokenizer import Detokenizer
from zif.tokenizer.loading import load_tokenizer
from zif.tokenizer.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "Detokenizer", "Tokenizer", "load_tokenizer"]
