"""A model directory made ready for the Hub, judged as strangers would judge it, and sent there.

`release` writes a directory with everything that a reader and the licence ask for; `audit` judges that or any foreign one;
`push` sends what the audit has passed.
"""

from openko.release.auditing import audit
from openko.release.hub import push
from openko.release.making import release

__all__ = ["audit", "push", "release"]
