"""The process of a rank that follows: ``python -m zif.parallel DESCRIPTOR``, started by the leading one."""

import sys

from zif.parallel.follower import main

main(int(sys.argv[1]))
