"""Where KV lives, in host integers: page allocators, and the radix tree that shares prefixes.

``groups``     what a cache group is to the host: a name and perhaps a window.
``watch``      who is to hear that more of a sequence is cached.
``allocator``  pages of one group: taken, given back, usable once the step that used them has completed.
``prefix``     what the scheduler asks of a prefix cache, and the one that caches nothing.
``node``       a node of the radix tree, and the least-recently-used heap over nodes.
``holdings``   the pages that the tree's nodes have: counted, and evicted.
``radix``      the prefix cache: longest match, locks, insertion.

Nothing here holds a tensor or knows a device.
"""
