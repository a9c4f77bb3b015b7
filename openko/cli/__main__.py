from openko.cli import main

main()
