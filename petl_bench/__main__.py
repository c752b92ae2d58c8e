"""`python -m petl_bench`."""

from petl_bench.main import console

if __name__ == "__main__":
    console()
