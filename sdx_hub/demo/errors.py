"""What can go wrong in the demo itself.

HubError
└── DemoError       demo_failed, or the code given
"""

from sdx_hub.domain.errors import HubError


class DemoError(HubError):
    status = 500
    default_code = "demo_failed"
