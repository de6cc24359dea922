"""The register of workers, and the locks of undos, in a database that several machines share."""
