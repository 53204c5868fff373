"""A doorbell that remembers who rang."""


class RecordingDoorbell:
    def __init__(self) -> None:
        self.rung: list[object] = []

    def build(self, build_id: int) -> None:
        self.rung.append(build_id)

    def reconcile(self) -> None:
        self.rung.append("pass")

    def report(self) -> None:
        self.rung.append("report")
