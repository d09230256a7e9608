"""Where everything lies in the state folder, and who writes it.

agent.toml                 people, and `enrol` once
identity/                  `enrol`: device.key, device_id, token; the token also by its rotation
journal.json               the worker alone
slots/COMPONENT/{a,b}      the worker's handlers
slots/.set                 the same: the one link that says which slots are current
downloads/                 the worker: bytes from the link, not believed before they are verified
metadata/{director,image}/ the worker: verified metadata
outbox/                    signed reports: the worker adds, whoever delivers removes
poll.json                  the poller: what the hub wants now, and what went wrong last
running.json               the poller: seconds that the craft was on
usage.json                 the worker: the use that it reported last
worker.json                the worker: when to start it again, and what went wrong last
*.lock                     held while a process works in here
"""

from pathlib import Path


class Home:
    """Paths below a state folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "agent.toml"
        self.identity = root / "identity"
        self.key = self.identity / "device.key"
        self.device_id = self.identity / "device_id"
        self.token = self.identity / "token"
        self.next_token = self.identity / "token.announced"
        self.journal = root / "journal.json"
        self.slots = root / "slots"
        self.downloads = root / "downloads"
        self.outbox = root / "outbox"
        self.budget = root / "budget.json"
        self.poll = root / "poll.json"
        self.running = root / "running.json"
        self.usage = root / "usage.json"
        self.worker = root / "worker.json"
        self.agent_lock = root / "agent.lock"
        self.worker_lock = root / "worker.lock"

    def metadata(self, repository: str) -> Path:
        return self.root / "metadata" / repository
