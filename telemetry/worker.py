"""Entry point of the delivery processes: ``python -m telemetry.worker``.

Do not rename this module: its name appears on the command lines of running jobs.
"""

from telemetry.delivery.worker_main import main

if __name__ == "__main__":
    main()
