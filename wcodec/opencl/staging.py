"""Memory that host threads decode into and a device reads: a few slots, mapped while the host has them."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wcodec.opencl.device import Device, translating


class Slot:
    """Pinned host memory, `bytes` while the host has it; where the device's own memory is another, some of that too.

    Mapping and uploading have a queue of their own, so that they wait for no kernel.
    """

    def __init__(self, device: Device, size: int) -> None:
        self._device = device
        self._allocate(size)

    def _allocate(self, size: int) -> None:
        self._size = size
        self._pinned = self._device.buffer(size, "staging memory", pinned=True)
        self._remote = None if self._device.is_cpu else self._device.buffer(size, "staging memory")
        self._map()

    def _map(self) -> None:
        cl = self._device.cl
        with translating("mapping staging memory"):
            self.bytes: NDArray[np.uint8] = cl.enqueue_map_buffer(
                self._device.transfers, self._pinned, cl.map_flags.WRITE, 0, (self._size,), np.uint8
            )[0]

    def put(self, blob: NDArray[np.uint32]) -> int:
        """Fill the slot from an array, with more memory if it takes more; how many bytes that is."""
        if blob.nbytes > self._size:
            self.close()
            self._allocate(2 * blob.nbytes)
        self.bytes[: blob.nbytes] = blob.view(np.uint8)
        return blob.nbytes

    def send(self, size: int) -> tuple[Any, Any]:
        """Give the first `size` bytes to the device: the buffer that kernels find them in, and from which event on."""
        with translating("uploading"):
            transfers, buffer = self._device.transfers, self._remote or self._pinned
            if self._remote is None:
                # on a CPU nothing is copied
                sent = self.bytes.base.release(transfers)  # type: ignore[union-attr]
            else:
                sent = self._device.cl.enqueue_copy(transfers, self._remote, self.bytes[:size], is_blocking=False)
            # kernels wait for this in another queue, which does not make this one begin
            transfers.flush()
            return buffer, sent

    def reclaim(self) -> None:
        """Have the memory back after the device is done with it."""
        if self._remote is None:
            self._map()

    def close(self) -> None:
        if self.bytes.base is not None:
            self.bytes.base.release(self._device.transfers)  # type: ignore[attr-defined]


class Staging:
    """`count` slots of `size` bytes. One thread takes and sends them; others may fill them."""

    def __init__(self, device: Device, size: int, count: int) -> None:
        self._device, self._size, self._unmade = device, size, count
        self._sent: deque[tuple[Slot, Any]] = deque()

    @property
    def available(self) -> bool:
        """Whether a slot can be had without sending one first."""
        return bool(self._sent or self._unmade)

    def take(self) -> Slot:
        """A slot to be filled: a new one, or the one sent first once the device has done with it."""
        if self._unmade:
            self._unmade -= 1
            return Slot(self._device, self._size)
        slot, event = self._sent.popleft()
        with translating("waiting for the device"):
            event.wait()
        slot.reclaim()
        return slot

    def sent(self, slot: Slot, event: Any) -> None:
        """The device has done with a slot when `event` is complete."""
        self._sent.append((slot, event))
