"""A cache format as somebody else would bring it: an extension that imports no room of core but the contract.

Tokens take 4 bits a number, or 8 where a head has outliers, of which a page has room for a few. So they are not a fixed
number of bytes apart: an index says where each begins.
"""
