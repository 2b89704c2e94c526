module authhttp

go 1.25
