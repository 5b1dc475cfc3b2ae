from benches.compare.run import main

main()
