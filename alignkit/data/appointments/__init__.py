"""Generated notes about appointments, and the calendar line of each."""

from alignkit.data.appointments.generate import generate

__all__ = ["generate"]
