"""Everything that can go wrong on a craft, with stable codes.

    AgentError                  meaning
    ├── TrustError              permanent: refuse the instruction, nothing has changed
    ├── TransportError          the link or the hub: try again later, nothing has changed
    │   └── BudgetExhausted     the byte budget of the day is used up
    ├── InstallError            the installation failed: roll back
    │   └── ArchiveError        the payload's archive breaks a rule
    └── SettingsError           agent.toml or the state folder is wrong: a person must act

`code` is for machines and never changes; the message is a sentence for people that says what to do.
"""


class AgentError(Exception):
    """Root of the tree.

    Args:
        message: What is wrong and what to do, for a person.
        code: Stable identifier, snake_case.
    """

    default_code = "agent_error"

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code or self.default_code


class TrustError(AgentError):
    default_code = "trust_refused"


class TransportError(AgentError):
    """The link or the hub failed.

    Args:
        message: As above.
        code: As above.
        status: HTTP status, 0 where no answer came.
        retry_after_s: What the hub asked for, 0 where it did not.
    """

    default_code = "hub_unreachable"

    def __init__(self, message: str, code: str = "", status: int = 0, retry_after_s: float = 0.0) -> None:
        super().__init__(message, code)
        self.status = status
        self.retry_after_s = retry_after_s


class BudgetExhausted(TransportError):
    default_code = "budget_exhausted"


class InstallError(AgentError):
    default_code = "install_failed"


class ArchiveError(InstallError):
    default_code = "archive_bad_entry"


class SettingsError(AgentError):
    default_code = "settings_invalid"
