"""`python -m strongroom.agent DESCRIPTOR`."""

from strongroom.agent.main import main

if __name__ == "__main__":
    main()
