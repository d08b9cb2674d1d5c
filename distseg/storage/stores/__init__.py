"""One file per scheme: `s3.py` serves `s3://…`. Each sets STORE to its class, and is found by the file's name."""
