"""Nothing: norse and sinabs import h5py for files that nobody reads here, and it is compiled for one Python only."""
