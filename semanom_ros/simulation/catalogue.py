"""The catalogue of anomalies and of their nominal twins."""

from __future__ import annotations

from dataclasses import dataclass

from semanom_ros.errors import ParameterError


@dataclass(frozen=True)
class Scenario:
    """An anomaly and its nominal twin.

    Attributes:
        name: identifier, used in bags and reports.
        severity: 1 (odd, harmless) to 5 (leads to a crash when it is misread).
        kind: `semantic` where familiar things are in an invalid combination, `novel`
            where the thing itself is never met in nominal drives.
        description: what happens.
        twin: what the same, or the most similar, things look like in a valid use.
    """

    name: str
    severity: int
    kind: str
    description: str
    twin: str


CATALOGUE: tuple[Scenario, ...] = (
    Scenario(
        'stop_sign_on_billboard',
        4,
        'semantic',
        'a stop sign printed on a billboard',
        'a real stop sign beside an ordinary billboard',
    ),
    Scenario(
        'traffic_light_on_truck',
        4,
        'semantic',
        'a traffic light carried on a truck',
        'a truck, and a traffic light on its pole',
    ),
    Scenario('person_lying_in_lane', 5, 'semantic', 'a person lying in the lane', 'a person walking on the pavement'),
    Scenario('car_on_its_side', 5, 'semantic', 'a car lying on its side on the road', 'a car parked at the kerb'),
    Scenario(
        'wrong_way_car', 5, 'semantic', 'a car coming towards us in our lane', 'a car coming towards us in its own lane'
    ),
    Scenario(
        'bicycle_on_roof',
        3,
        'semantic',
        'a cyclist seen on the roof of a moving car',
        'a cyclist on the road and a moving car',
    ),
    Scenario('tree_across_road', 5, 'semantic', 'a tree lying across the road', 'a tree standing beside the road'),
    Scenario('cow_on_road', 5, 'semantic', 'a cow standing on the road', 'a cow on a meadow behind a fence'),
    Scenario('deer_on_road', 5, 'novel', 'a deer standing on the road', 'a dog walked on the pavement'),
    Scenario('sofa_in_lane', 4, 'novel', 'a sofa standing in the lane', 'a bench and cardboard boxes on the pavement'),
    Scenario('loose_tyre', 4, 'novel', 'a loose tyre lying in the lane', 'a spare wheel on the back of a car'),
    Scenario(
        'car_on_facade', 3, 'semantic', 'a car hanging on a facade', 'a car in front of a house, square to the street'
    ),
    Scenario(
        'moon_beside_traffic_light',
        3,
        'semantic',
        'a yellow moon beside a traffic light',
        'an amber traffic light, and a moon high in the sky',
    ),
    Scenario(
        'road_painted_on_truck',
        4,
        'semantic',
        'a road painted on the back of a truck',
        'an advertisement on the back of a truck',
    ),
    Scenario('smoke_over_road', 4, 'semantic', 'smoke over the road', 'smoke from a chimney'),
    Scenario('flooded_road', 4, 'semantic', 'a flooded road', 'puddles at the kerb'),
    Scenario('crowd_in_lane', 5, 'semantic', 'a crowd standing in the lane', 'a crowd on the pavement'),
    Scenario('speed_sign_on_road', 3, 'semantic', 'a speed sign lying on the road', 'a speed sign on its pole'),
    Scenario(
        'construction_in_lane', 4, 'semantic', 'a construction site in the lane', 'a construction site on the pavement'
    ),
    Scenario('fridge_in_lane', 4, 'novel', 'a fridge standing in the lane', 'a litter bin on the pavement'),
)


def named(name: str) -> Scenario:
    """The scenario of that name.

    Raises:
        ParameterError: there is none.
    """
    for scenario in CATALOGUE:
        if scenario.name == name:
            return scenario
    raise ParameterError(
        f'scenario: found {name!r}, expected one of {", ".join(s.name for s in CATALOGUE)}; choose one of them'
    )
