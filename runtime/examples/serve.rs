#[tokio::main]
async fn main() {
    let home = std::env::args().nth(1).expect("home");
    let at = std::time::Instant::now();
    let e = trainyard_runtime::embedded::Embedded::open(trainyard_runtime::embedded::Options::new(home)).await.expect("opens");
    let info = e.serve("127.0.0.1:16443".parse().expect("addr")).await.expect("serves");
    eprintln!("{:?} {:?}", info, at.elapsed());
    std::future::pending::<()>().await;
}
