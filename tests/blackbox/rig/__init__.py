"""The parts the black-box tests are built from: gateway process, backend, clients, targets."""
