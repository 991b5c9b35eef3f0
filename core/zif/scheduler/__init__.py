"""Which request computes what in the next step, in host integers.

``request``    one sequence on its way from prompt to last token.
``batch``      what ``schedule`` hands to the engine, and what ``commit`` says about it.
``memory``     rows of the request table, pages and prefix cache behind one door.
``running``    requests that have a row, and arrays of what a step asks of them.
``waiting``    the queue, and its order.
``committing`` the tokens of a step, given to their requests.
``policy``     prefixes in the making, and how much room admission keeps for what runs.
``prefilling`` chunks of prompts, and admission.
``scheduler``  the scheduler itself.

A row of the request table is taken when a request is admitted and given back when it ends or is
retracted; row 0 is nobody's, as page 0 is, so that padding has somewhere to point.
"""
