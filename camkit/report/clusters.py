"""Clusters of a class's maps: ways of looking that the network has for it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from camkit.report.maps import MapNumbers

NEIGHBOURS = 10
"""Of each map, in the graph."""
FEWEST = 20
"""Classes with fewer maps aren't clustered."""
MOST = 500
"""So many maps of a class are clustered; a larger class is sampled."""
MOST_CLUSTERS = 8
TYPICAL = 3
"""Images that stand for a cluster."""


@dataclass(frozen=True)
class Cluster:
    """Maps that are alike.

    Attributes:
        rows: Their rows' numbers.
        typical: Rows nearest to the cluster's mean map, the nearest first.
    """

    rows: NDArray[np.int64]
    typical: NDArray[np.int64]


def find_clusters(maps: MapNumbers, rows: NDArray[np.int64], seed: int = 0) -> list[Cluster]:
    """Cluster some rows' maps: spectral clustering of the symmetric graph of nearest neighbours.

    The largest gap between the first eigenvalues of the graph's normalised Laplacian says how many clusters there are
    (von Luxburg 2007), which may be one.

    Args:
        maps: Of all rows.
        rows: Those of a class.
        seed: Of the sample where the class has more than :data:`MOST` maps, and of the clustering.

    Returns:
        The clusters, the largest first; none where there are fewer than :data:`FEWEST` maps.
    """
    from sklearn.cluster import SpectralClustering
    from sklearn.neighbors import kneighbors_graph

    rows = rows[maps.there[rows]]
    if len(rows) < FEWEST:
        return []
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST, replace=False))
    features = maps.small[rows].reshape(len(rows), -1).astype(np.float64)
    features /= np.linalg.norm(features, axis=1, keepdims=True) + 1e-12
    one_way = kneighbors_graph(features, min(NEIGHBOURS, len(rows) - 1), include_self=False)
    graph = (one_way + one_way.T) / 2
    count = count_clusters(graph.toarray())
    if count == 1:
        member = np.zeros(len(rows), dtype=int)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Graph is not fully connected")  # the gap has counted its parts
            clustering = SpectralClustering(count, affinity="precomputed", random_state=seed, assign_labels="kmeans")
            member = clustering.fit_predict(graph)
    found = [_cluster(rows[member == number], features[member == number]) for number in np.unique(member)]
    return sorted(found, key=lambda cluster: (-len(cluster.rows), int(cluster.rows[0])))


def count_clusters(graph: NDArray[np.float64]) -> int:
    """The number of clusters by the eigengap of the normalised Laplacian, 1 to :data:`MOST_CLUSTERS`.

    Args:
        graph: (N, N) symmetric weights.
    """
    degree = graph.sum(1)
    scale = 1 / np.sqrt(np.where(degree > 0, degree, 1))
    laplacian = np.eye(len(graph)) - scale[:, None] * graph * scale
    values = np.linalg.eigvalsh(laplacian)[: MOST_CLUSTERS + 1]
    return int(np.argmax(np.diff(values))) + 1


def _cluster(rows: NDArray[np.int64], features: NDArray[np.float64]) -> Cluster:
    distance = np.linalg.norm(features - features.mean(0), axis=1)
    return Cluster(rows, rows[np.argsort(distance, kind="stable")[:TYPICAL]])
