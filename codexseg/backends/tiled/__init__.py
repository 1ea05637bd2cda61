"""Adapters of networks that segment tiles: Cellpose, StarDist, InstanSeg."""
