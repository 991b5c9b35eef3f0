"""What clients may send, as pydantic models.

Types are strict (``"1"`` is no number), and ``null`` means "not given". Sampling parameters are those declared in
:mod:`zif.sampling.params`; what is accepted without effect, and what is refused by name, stands in
:mod:`zif.server.schemas.fields`; other unknown fields are ignored.
"""
