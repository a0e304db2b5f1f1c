"""The built-in simulated drive and its anomalies."""

from semanom_ros.simulation.catalogue import CATALOGUE, Scenario
from semanom_ros.simulation.drive import Instance, SimulatedFrame, simulate

__all__ = ['CATALOGUE', 'Instance', 'Scenario', 'SimulatedFrame', 'simulate']
