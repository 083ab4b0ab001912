"""mountd(8): exports(5) in two dialects, the MOUNT protocol, and the tools showmount(8), `mountd why` and `mountd convert`."""
