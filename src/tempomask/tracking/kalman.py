"""A Kalman filter for a box that moves steadily (SORT's and SAMURAI's; time step one frame).

The state is (x, y, a, h), the centre, the aspect w / h and the height, and their velocities.
Neither motion nor noise couples the four, so that the 8 x 8 filter falls apart into four of two
dimensions, which are computed side by side on vectors of length 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector: TypeAlias = NDArray[np.float64]
Box: TypeAlias = tuple[float, float, float, float]

# Standard deviations, in heights of the box, of a position and of a velocity in one frame.
POSITION_NOISE, VELOCITY_NOISE = 1 / 20, 1 / 160
# The aspect has its own, which do not grow with the box: in motion, its velocity, when measured.
ASPECT_NOISE, ASPECT_VELOCITY_NOISE, ASPECT_MEASUREMENT_NOISE = 1e-2, 1e-5, 1e-1
# How much less is known of a new box than of one that is followed.
INITIAL_POSITION, INITIAL_VELOCITY = 2, 10


def measurement(box: Box) -> Vector:
    """(x, y, a, h) of a box (x0, y0, x1, y1); a box of no height counts as one pixel high."""
    x0, y0, x1, y1 = box
    height = (y1 - y0) or 1.0
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / height, height])


def _variance(height: float, scale: float, aspect: float) -> Vector:
    deviation = np.full(4, scale * height)
    deviation[2] = aspect
    return deviation * deviation


@dataclass(frozen=True, eq=False)
class BoxFilter:
    """What is believed of a box: vectors (4,) over x, y, a, h.

    position, velocity: means. variance, cross, drift: of the positions, between each position and
    its velocity, and of the velocities. Never changed in place.
    """

    position: Vector
    velocity: Vector
    variance: Vector
    cross: Vector
    drift: Vector

    def fits(self) -> bool:
        """Whether all vectors have their length, as after reading them."""
        vectors = (self.position, self.velocity, self.variance, self.cross, self.drift)
        return all(vector.shape == (4,) for vector in vectors)

    @staticmethod
    def start(box: Box) -> BoxFilter:
        """A filter at a box, of which no velocity is known."""
        position = measurement(box)
        height = float(position[3])
        return BoxFilter(
            position,
            np.zeros(4),
            _variance(height, INITIAL_POSITION * POSITION_NOISE, ASPECT_NOISE),
            np.zeros(4),
            _variance(height, INITIAL_VELOCITY * VELOCITY_NOISE, ASPECT_VELOCITY_NOISE),
        )

    @property
    def box(self) -> Box:
        """(x0, y0, x1, y1) of the mean."""
        x, y, aspect, height = self.position.tolist()
        width = aspect * height
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2

    def predicted(self) -> BoxFilter:
        """One frame on."""
        height = float(self.position[3])
        moved = _variance(height, POSITION_NOISE, ASPECT_NOISE)
        turned = _variance(height, VELOCITY_NOISE, ASPECT_VELOCITY_NOISE)
        return BoxFilter(
            self.position + self.velocity,
            self.velocity,
            self.variance + 2 * self.cross + self.drift + moved,
            self.cross + self.drift,
            self.drift + turned,
        )

    def updated(self, box: Box) -> BoxFilter:
        """The belief after a box was seen."""
        noise = _variance(float(self.position[3]), POSITION_NOISE, ASPECT_MEASUREMENT_NOISE)
        expected = self.variance + noise
        gain, velocity_gain = self.variance / expected, self.cross / expected
        surprise = measurement(box) - self.position
        return BoxFilter(
            self.position + gain * surprise,
            self.velocity + velocity_gain * surprise,
            self.variance - gain * self.variance,
            self.cross - gain * self.cross,
            self.drift - velocity_gain * self.cross,
        )
