"""What clients may send, as pydantic models.

Types are strict (``"1"`` is no number), ``null`` means "not given", and unknown parameters are ignored,
but those that would change the answer and are not built yet are refused by name.
"""
