"""Runs launches by a schedule and keeps the footprints of each."""

from tests.kernels.checker.footprints import Footprints
from tests.kernels.checker.hooks import Access, Launch
from tests.kernels.checker.schedules import Schedule


class Watch:
    """A listener; `launches` are what it heard, in order."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.launches: list[Footprints] = []

    def launched(self, launch: Launch) -> None:
        self.launches.append(Footprints(launch))
        self.schedule.run(launch)

    def pause(self) -> None:
        self.schedule.pause()

    def accessed(self, access: Access) -> None:
        self.launches[-1].accessed(self.schedule.program, access)

    def barrier(self) -> None:
        self.launches[-1].barrier(self.schedule.program)
