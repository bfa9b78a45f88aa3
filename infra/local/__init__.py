"""The local stack: object store, MLflow and Ray on this machine."""
