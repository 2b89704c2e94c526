module strangers

go 1.25
